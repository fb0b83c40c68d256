// The user pool of ../cognito.yaml as an AWS CDK stack, with an API Gateway REST API whose methods have
// Cognito's authorizer and the Lambda authorizer of ../../lambda.
//
//     npx cdk deploy --context domainPrefix=example-7f3a

import { App, CfnDeletionPolicy, CfnOutput, Duration, Stack } from 'aws-cdk-lib';
import * as apigateway from 'aws-cdk-lib/aws-apigateway';
import * as cognito from 'aws-cdk-lib/aws-cognito';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import { Construct } from 'constructs';

class TowerCognitoStack extends Stack {
  constructor(scope: Construct, id: string) {
    super(scope, id);
    const domainPrefix = this.setting('domainPrefix', 'example-7f3a');
    const functions = this.setting('functions', '../../../target/lambda');

    const pool = new cognito.UserPool(this, 'UserPool', {
      userPoolName: 'tower-cognito',
      deletionProtection: true,
      selfSignUpEnabled: false, // the pool has only clients
    });
    const poolResource = pool.node.defaultChild as cognito.CfnUserPool;
    // `deletionProtection` keeps the pool. Without it, the pool is deleted with the stack.
    poolResource.cfnOptions.deletionPolicy = CfnDeletionPolicy.DELETE;
    // The construct has no such setting. The library also trusts the updated issuer.
    poolResource.addPropertyOverride('IssuerConfiguration', { Type: 'ORIGINAL' });
    // A domain is required for the token endpoint.
    new cognito.UserPoolDomain(this, 'Domain', { userPool: pool, cognitoDomain: { domainPrefix } });

    const full = new cognito.ResourceServerScope({
      scopeName: '*',
      scopeDescription: 'Full access',
    });
    const activityServer = new cognito.UserPoolResourceServer(this, 'ActivityServer', {
      userPool: pool,
      identifier: 'activity',
      userPoolResourceServerName: 'Event webhook',
      scopes: [full],
    });
    const read = new cognito.ResourceServerScope({
      scopeName: 'read',
      scopeDescription: 'Reading items',
    });
    const itemServer = new cognito.UserPoolResourceServer(this, 'ItemServer', {
      userPool: pool,
      identifier: 'demo-dev',
      userPoolResourceServerName: 'Items',
      scopes: [read],
    });
    const activityScope = cognito.OAuthScope.resourceServer(activityServer, full);
    const itemScope = cognito.OAuthScope.resourceServer(itemServer, read);
    const activityClient = this.machineClient(pool, 'activity', activityScope);
    const itemClient = this.machineClient(pool, 'item', itemScope);

    const environment = {
      COGNITO_USER_POOL_ID: pool.userPoolId,
      COGNITO_CLIENT_IDS: `${activityClient.userPoolClientId},${itemClient.userPoolClientId}`,
    };
    const handler = this.rustFunction('Function', `${functions}/bootstrap`, {
      ...environment,
      AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH: '1',
    });
    const authorizerFunction = this.rustFunction('Authorizer', `${functions}/authorizer`, environment);

    const api = new apigateway.RestApi(this, 'Api', { cloudWatchRole: false });
    const integration = new apigateway.LambdaIntegration(handler);
    // A cached result outlives its token, so none is cached.
    const resultsCacheTtl = Duration.seconds(0);
    // Cognito's authorizer accepts every app client of the pool. The function checks the client.
    api.root.addResource('item').addMethod('GET', integration, {
      authorizer: new apigateway.CognitoUserPoolsAuthorizer(this, 'CognitoAuthorizer', {
        cognitoUserPools: [pool],
        resultsCacheTtl,
      }),
      authorizationScopes: [itemScope.scopeName],
    });
    api.root.addResource('activity').addMethod('POST', integration, {
      authorizer: new apigateway.TokenAuthorizer(this, 'LambdaAuthorizer', {
        handler: authorizerFunction,
        resultsCacheTtl,
      }),
    });

    // No output has a secret, because everyone who can read the stack would see it.
    new CfnOutput(this, 'UserPoolId', { value: pool.userPoolId });
    new CfnOutput(this, 'ClientIds', { value: environment.COGNITO_CLIENT_IDS });
    new CfnOutput(this, 'ActivityClientId', { value: activityClient.userPoolClientId });
    new CfnOutput(this, 'ItemClientId', { value: itemClient.userPoolClientId });
    const host = `${domainPrefix}.auth.${this.region}.amazoncognito.com`;
    new CfnOutput(this, 'TokenEndpointUrl', { value: `https://${host}/oauth2/token` });
  }

  private setting(name: string, fallback: string): string {
    return this.node.tryGetContext(name) ?? fallback;
  }

  private machineClient(
    userPool: cognito.IUserPool,
    name: 'activity' | 'item',
    oauthScope: cognito.OAuthScope,
  ): cognito.UserPoolClient {
    const id = name === 'activity' ? 'ActivityClient' : 'ItemClient';
    return new cognito.UserPoolClient(this, id, {
      userPool,
      userPoolClientName: `tower-cognito-${name}`,
      generateSecret: true,
      oAuth: { flows: { clientCredentials: true }, scopes: [oauthScope] },
      // Without an explicit `false`, the property is absent, and Cognito lets users sign in.
      authFlows: { adminUserPassword: false, custom: false, userPassword: false, userSrp: false },
      enableTokenRevocation: true,
      accessTokenValidity: Duration.minutes(60),
    });
  }

  private rustFunction(
    id: string,
    folder: string,
    environment: Record<string, string>,
  ): lambda.Function {
    return new lambda.Function(this, id, {
      runtime: lambda.Runtime.PROVIDED_AL2023,
      handler: 'bootstrap',
      code: lambda.Code.fromAsset(folder),
      memorySize: 256,
      timeout: Duration.seconds(10),
      environment,
    });
  }
}

const app = new App();
new TowerCognitoStack(app, 'TowerCognito');
app.synth();
